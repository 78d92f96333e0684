"""What others look for under their own entry points; nothing of rerail imports it."""
