"""What is found for a model on prompts of its own: step sizes, and offsets to try first."""
