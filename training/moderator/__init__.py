"""How the embedded moderator is made and measured."""
