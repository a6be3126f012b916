"""How much of the TPM, and of our memory, spaces may have, so that each of them finds something left."""

from collections.abc import Collection

from swtpm_svc.resources.saved_sessions import SavedSessions
from swtpm_svc.resources.space import Space

#: Objects of a space, of a user's spaces, and of all but root's; one that is put away takes 0.5 to 2 KiB.
OBJECTS_OF_SPACE = 64
OBJECTS_OF_USER = 512
OBJECTS_OF_OTHERS = 2048
#: Sessions of a space. The TPM has some tens for everybody (libtpms: 64): three quarters of them a user may have, and
#: an eighth is kept for root.
SESSIONS_OF_SPACE = 16
#: Sessions that clients of a user have saved, and left alone.
LEFT_ALONE_OF_USER = 16


def has_room_for_object(space: Space, spaces: Collection[Space]) -> bool:
    uid = space.caller.uid
    return (
        len(space.objects) < OBJECTS_OF_SPACE
        and sum(len(other.objects) for other in spaces if other.caller.uid == uid) < OBJECTS_OF_USER
        and (uid == 0 or sum(len(other.objects) for other in spaces if other.caller.uid) < OBJECTS_OF_OTHERS)
    )


def is_share_of_sessions_used(space: Space, spaces: Collection[Space], saved: SavedSessions, total: int) -> bool:
    """Has the user of the space as many of the TPM's sessions as he may, of `total` that there are?"""
    uid = space.caller.uid
    of_user = sum(len(other.sessions) for other in spaces if other.caller.uid == uid) + saved.of_user(uid)
    if of_user >= total * 3 // 4:
        return True
    of_others = sum(len(other.sessions) for other in spaces if other.caller.uid)
    of_others += sum(session.uid != 0 for session in saved.of_clients.values())
    return uid != 0 and of_others >= total - total // 8
