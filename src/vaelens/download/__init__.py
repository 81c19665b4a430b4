"""Files from elsewhere, checked: `hub` and `hub_listing` for the Hugging Face hub, `web_files` for other addresses."""

from vaelens.errors import UsageError

try:
    import huggingface_hub.constants  # noqa: F401 # pyright: ignore[reportUnusedImport] - it reads the environment
except ValueError as error:
    raise UsageError(f"an HF_* environment variable has an invalid value: {error}. Correct or unset it.") from error
