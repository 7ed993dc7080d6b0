"""The two errors that a user can act on; anything else that escapes is a defect of Athanor."""


class AthanorError(Exception):
    """Base of both, for callers that treat every failure alike."""


class CompileError(AthanorError):
    """The model, target or an option can't be compiled; the message says which rule and where."""


class RunError(AthanorError):
    """An artifact can't be loaded, or an input does not fit; the message names both sides."""
