"""How the independent judge is made and measured."""
