"""What those who write policies work with: templates, cases, replay, words and a schema."""
