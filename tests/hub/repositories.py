"""What a Hub keeps: repositories with branches of commits, files by content, and who may do what."""

import hashlib
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Blob:
    """A file's content; large ones are kept apart under their SHA-256 (LFS)."""

    data: bytes
    lfs: bool

    @property
    def git_oid(self) -> str:
        return hashlib.sha1(b"blob %d\0" % len(self.data) + self.data).hexdigest()

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.lfs else self.git_oid


Files = dict[str, Blob]


@dataclass
class Repository:
    """One model repository.

    Attributes:
        id: "org/name".
        private: whether only accounts of the organisation see it.
        gated: whether files are given to `admitted` accounts alone.
        branches: name -> commit.
        commits: hash -> files.
        messages: hash -> message.
    """

    id: str
    private: bool = False
    gated: bool = False
    admitted: set[str] = field(default_factory=set)
    branches: dict[str, str] = field(default_factory=dict)
    commits: dict[str, Files] = field(default_factory=dict)
    messages: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.branches:
            self.commit("main", {}, "initial commit")

    def commit(self, branch: str, files: Files, message: str) -> str:
        """Make `files` what the branch holds; the commit's hash."""
        parts = [self.id, self.branches.get(branch, ""), message]
        parts += [f"{path}:{blob.git_oid}" for path, blob in sorted(files.items())]
        sha = hashlib.sha1("\n".join(parts).encode()).hexdigest()
        self.branches[branch], self.commits[sha], self.messages[sha] = sha, dict(files), message
        return sha

    def put(self, changes: dict[str, bytes], branch: str = "main") -> str:
        """Commit files over those of the branch, as another program would."""
        files = dict(self.commits[self.branches[branch]])
        files |= {path: Blob(data, is_large(path)) for path, data in changes.items()}
        return self.commit(branch, files, f"put {', '.join(changes)}")

    def resolve(self, revision: str) -> str | None:
        """The commit of a branch name or hash."""
        return self.branches.get(revision, revision if revision in self.commits else None)

    def files(self, revision: str = "main") -> Files:
        sha = self.resolve(revision)
        assert sha is not None
        return self.commits[sha]


def is_large(path: str) -> bool:
    """What the Hub's .gitattributes send to LFS."""
    return path.endswith((".safetensors", ".bin", ".pt", ".ckpt", ".pkl"))
