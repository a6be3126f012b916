"""What the users of a TPM have in common, and none of them may use up: open files, connections, requests that wait."""

from swtpm_svc.errors import Code, VtpmError


class Shares:
    """`total` places. Each user has `of_one` at most; as many are kept for root, and the others share the rest."""

    def __init__(self, total: int, of_one: int) -> None:
        self._for_others = total - of_one
        self._of_one = of_one
        self._taken: dict[int, int] = {}
        self._by_others = 0

    def __len__(self) -> int:
        return self._by_others + self._taken.get(0, 0)

    def of(self, uid: int) -> int:
        """How many places the user has."""
        return self._taken.get(uid, 0)

    def has_room(self, uid: int) -> bool:
        return self._taken.get(uid, 0) < self._of_one and (uid == 0 or self._by_others < self._for_others)

    def add(self, uid: int) -> None:
        """Count a place, whether or not there is room: what a predecessor gave is not taken away."""
        self._taken[uid] = self._taken.get(uid, 0) + 1
        self._by_others += uid != 0

    def remove(self, uid: int) -> None:
        left = self._taken[uid] - 1
        if left:
            self._taken[uid] = left
        else:
            del self._taken[uid]
        self._by_others -= uid != 0


def too_many(what: str, shares: Shares, uid: int) -> VtpmError:
    """The refusal of one more open file or connection."""
    return VtpmError(
        Code.TOO_MANY,
        f"{shares.of(uid)} {what} of user {uid}, {len(shares)} in all",
        remedy="close some; a program may leak them",
    )
