"""What the server refuses, as the one error object that OpenAI's clients read."""

from typing import Any

from lookright.errors import LookRightError

INVALID = "invalid_request_error"


class Refusal(LookRightError):
    """A request that is not answered: one sentence, the HTTP `status`, and the field at fault."""

    def __init__(
        self, text: str, *, status: int = 400, param: str | None = None, code: str | None = None, kind: str = INVALID
    ) -> None:
        super().__init__(text)
        self.status, self.param, self.code, self.kind = status, param, code, kind

    def body(self) -> dict[str, Any]:
        """The response's JSON."""
        return {"error": {"message": str(self), "type": self.kind, "param": self.param, "code": self.code}}


def busy(waiting: int) -> Refusal:
    """Too many requests at once."""
    text = f"{waiting} requests are here already; try again in a moment, or set limits.waiting higher"
    return Refusal(text, status=429, code="rate_limit_exceeded", kind="rate_limit_error")


def stopping() -> Refusal:
    """The server goes down."""
    return Refusal("the server is stopping; try another one", status=503, code="stopping", kind="server_error")


def too_late(seconds: float) -> Refusal:
    """An answer that took longer than is allowed."""
    text = f"no answer within {seconds:g} s; ask for fewer tokens, or set limits.seconds higher"
    return Refusal(text, status=504, code="timeout", kind="server_error")


def broken() -> Refusal:
    """An error of ours."""
    text = "the server could not answer because of an error of its own; its log says which"
    return Refusal(text, status=500, code="internal_error", kind="server_error")
