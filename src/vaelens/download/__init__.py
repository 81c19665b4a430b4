"""Files from elsewhere, checked: `hub` and `hub_listing` for the Hugging Face hub, `web_files` for other addresses."""

from vaelens.errors import UsageError

try:
    import huggingface_hub.constants  # noqa: F401 # pyright: ignore[reportUnusedImport] - it reads the environment
except ValueError as error:
    raise UsageError(
        f"a variable of the environment that begins with HF_ can't be used: {error}. Correct or unset it."
    ) from error
