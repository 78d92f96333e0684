"""Guard models that write their verdict: the score is read where the verdict would stand."""
