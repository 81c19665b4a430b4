"""What names a place on the hub: an id, `owner/name`, or an address pasted from the hub's site."""

import re
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from vaelens.download.hub import HUB_ID, RepoType, endpoint, is_inner
from vaelens.errors import UsageError

HOSTS = {"huggingface.co", "www.huggingface.co", "hf.co"}
ADDRESS = re.compile(r"\w+://|(?:huggingface\.co|www\.huggingface\.co|hf\.co)/")
VIEWS = {"tree", "blob", "resolve", "raw", "blame", "commits", "commit"}  # of the site: what stands before a revision
PAGES = {"viewer", "embed", "discussions", "settings"}  # of a repository as a whole, whatever follows


@dataclass(frozen=True)
class HubAddress:
    """A repository at a revision, or a folder or file in it: `path`, empty for the repository."""

    repo: str
    revision: str = "main"
    path: str = ""

    @property
    def name(self) -> str:
        """The repository, with its revision where that isn't main."""
        return self.repo + (f"@{self.revision}" if self.revision != "main" else "")


def is_address(text: str) -> bool:
    """Whether it is a web address, of the hub or elsewhere."""
    return ADDRESS.match(text) is not None


def parse_hub_address(text: str, repo_type: RepoType = "model") -> HubAddress:
    """Of an id, a repository's page, or the page or download link of a folder or file.

    PAGES of a repository mean the repository at main.

    Raises UsageError for an address elsewhere, and for one of the hub's that isn't a model's, or a dataset's.
    """
    if not is_address(text):
        return HubAddress(text)
    try:
        parts = urlsplit(text if "://" in text else f"https://{text}")
    except ValueError as error:  # brackets that don't close, letters that only look like a slash
        raise UsageError(f"{text} isn't a web address: {error}. Check it.") from error
    if parts.netloc.rpartition("@")[2].lower() not in {*HOSTS, urlsplit(endpoint()).netloc.lower()}:
        raise UsageError(
            f"{text} isn't on the hub, and vaelens downloads {repo_type}s only from there. "
            "Download the file and name it."
        )
    pieces = [unquote(piece) for piece in parts.path.split("/") if piece]
    kind, where = pieces[:1], f"{endpoint()}/owner/name"
    if repo_type == "dataset":
        pieces, where = pieces[1:] if kind == ["datasets"] else [], f"{endpoint()}/datasets/owner/name"
    repo, rest = "/".join(pieces[:2]), pieces[2:]
    if not HUB_ID.fullmatch(repo) or pieces[0] in {"datasets", "spaces", "api", "papers", "docs", "collections"}:
        raise UsageError(f"{text}: not the page of a {repo_type} on the hub, {where}. Check the address.")
    inner = "/".join(rest)  # split again: a piece may have held an escaped slash
    odd = "." in inner.split("/") or not inner.isprintable() or not is_inner(inner)
    if odd or (rest and rest[0] not in VIEWS | PAGES):
        raise UsageError(
            f"{text} isn't the page of a file or folder in {repo}. Name {repo}, or the page of a file in it."
        )
    if rest and rest[0] in PAGES:
        return HubAddress(repo)
    revision, path = (rest[1], rest[2:]) if len(rest) > 1 else ("main", [])
    if revision == "refs" and len(path) >= 2:  # refs/pr/1
        revision, path = "/".join([revision, *path[:2]]), path[2:]
    return HubAddress(repo, revision, "/".join(path))
