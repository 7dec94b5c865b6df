"""Video sessions: the flows of one client and one service, from the first media segment to silence."""

from .columns import SESSION_COLUMNS, session_schema
from .lines import session_lines, sessions_of_lines
from .registry import SessionField, SessionRegistry, session_fields
from .view import SessionView

__all__ = [
    "SESSION_COLUMNS",
    "SessionField",
    "SessionRegistry",
    "SessionView",
    "session_fields",
    "session_lines",
    "session_schema",
    "sessions_of_lines",
]
