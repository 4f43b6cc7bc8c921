"""What goes wrong in an export and isn't a user's mistake."""


class ExportError(Exception):
    """An artefact couldn't be made, or differs from its model."""


class NotMadeError(ExportError):
    """An artefact that this model, or this installation, has no use for or can't have; the message says why."""
