"""Reasons of refusals that a person meets at once and that never become a condition.

Reason | what it means | what to do. The table of conditions' reasons is `skerry.model.reasons`.
"""

from __future__ import annotations

_TABLE = """
BadPassword | A new password is not acceptable. | Choose a longer one, or type it twice alike.
Conflict | Somebody else changed the object meanwhile; the changes are in the answer. | Get the \
object again and make the change there.
DeleteWaits | The object cannot go yet; `waitSeconds` says how long until it may be forced. | \
Wait, or delete it with `--force` afterwards.
DocumentInvalid | A document was refused; `problems` holds everything that is wrong with it. | \
Correct these fields and send it again.
FormRefused | A form did not come from a page of this console, or is too old. | Reload the page.
MessageInvalid | The bytes of a host's request are not the expected message. | Install the agent \
again; its version may be too old.
NotPermitted | The caller may not do this. | Ask an administrator for a role binding.
NotSignedIn | Nobody is signed in, or no longer. | `skerry login`
RequestInvalid | A request cannot be understood. | Compare it with the OpenAPI document.
SignInFailed | Wrong name or password; which of them is not said. | Try again.
TooLarge | A request is larger than the manager takes. | Send less at once.
UploadRefused | Bytes of an upload do not fit; `offset` says where to go on. | Push again.
"""

REFUSALS: dict[str, tuple[str, str]] = {
    name.strip(): (meaning.strip(), action.strip())
    for name, meaning, action in (line.split("|") for line in _TABLE.strip().splitlines())
}
