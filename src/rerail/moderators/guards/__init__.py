"""Guard models that write their verdict: the score is read where the verdict would stand."""

from rerail.moderators.guards._models import Loaded, tempered_threshold

__all__ = ["Loaded", "tempered_threshold"]
