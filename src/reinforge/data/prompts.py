"""What a model is asked, as tasks and rewards see it."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from reinforge.data.chats import Chat, Message
from reinforge.data.text import TextPipeline


class Prompt(NamedTuple):
    """What the model is asked, and the answer that would be right. `chat`: all turns, where it is more than a text."""

    text: str
    answer: str
    chat: Chat | None = None

    def ids(self, pipeline: TextPipeline) -> Tensor:
        """The tokens that ask it: (n,) int64."""
        if pipeline.template is None:
            return pipeline.opened(self.text).long()
        chat = self.chat or Chat((Message("user", self.text),))
        return pipeline.chat(chat, answer=True)[0].long()
