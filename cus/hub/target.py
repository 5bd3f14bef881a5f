"""Target of an upload to the Hub."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, Suppress

from cus.options import Flag, option

if TYPE_CHECKING:
    from cus.hub.errors import HubAccess


@dataclass(frozen=True)
class Push:
    """Target of an upload to the Hub.

    Attributes:
        repository: target repository, "org/name"; created if it does not exist
        revision: branch, created if it does not exist (default: main)
        private: hide it from everyone but you and your organisation (default: as it is; a new repository is public)
        message: message of the commit
        token: access token; None takes that of the current login
        create_pr: propose the change instead of making it
    """

    repository: Annotated[str, Positional, option("org/name")]
    revision: Annotated[str | None, option("BRANCH")] = None
    private: Annotated[bool | None, option()] = None
    message: Annotated[str, option("TEXT")] = "Upload CloseUpShotPipeline"
    token: Annotated[str | None, Suppress] = None
    create_pr: Flag = False

    @property
    def access(self) -> "HubAccess":
        """The same target, for requests that only read."""
        from cus.hub.errors import HubAccess

        return HubAccess(self.revision, token=self.token)
