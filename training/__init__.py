"""How the embedded chat model and moderator are made, from public data and our own text."""
