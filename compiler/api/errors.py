"""The errors of Athanor: two that a user can act on, and one for a defect of its own."""


class AthanorError(Exception):
    """Base of all, for callers that treat every failure alike."""


class CompileError(AthanorError):
    """The model, target or an option can't be compiled; the message says which rule and where."""


class CompilerDefect(CompileError):
    """Compilation failed for a reason that is none of the model's; what failed is the cause."""


class RunError(AthanorError):
    """An artifact can't be loaded, or an input does not fit; the message names both sides."""
