"""Where a model goes on the Hub."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, Suppress

from cus.options import Flag, option

if TYPE_CHECKING:
    from cus.hub.errors import HubAccess


@dataclass(frozen=True)
class Push:
    """Where a model goes.

    Attributes:
        repository: where it goes, "org/name"; made where it is not there
        revision: branch, made where it is not there (default: main)
        private: only you and your organisation see it (default: as it is; a new repository is public)
        message: message of the commit
        token: access token; None takes the one logged in with
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
        """The same, for requests that only read."""
        from cus.hub.errors import HubAccess

        return HubAccess(self.revision, token=self.token)
