"""Who may serve: control asks when it activates a table, a gateway asks again when it loads it."""

from fungible.config import BackendSettings, binding_of
from fungible.routing.table import Admission


def admissible(
    name: str, settings: BackendSettings, admission: Admission | None, now_ns: int
) -> str | None:
    """Why a backend other than the route's reference may not serve, or `None` if it may.

    An admission holds for exactly one binding (artifact, variant, target, engine
    configuration) and until it expires.
    """
    if admission is None:
        return f"{name} has no passing verdict"
    if admission.binding != binding_of(name, settings):
        return (
            f"verdict {admission.verdict_id} was given for another artifact, target or engine "
            f"configuration than {name} has now"
        )
    if admission.expires_ns <= now_ns:
        return f"verdict {admission.verdict_id} of {name} has expired"
    return None
