"""Training of the embedded language model and of its step scorer."""
