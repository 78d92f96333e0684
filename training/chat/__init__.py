"""The embedded chat model: its corpus, its training, its evaluation and the demo prompts."""
