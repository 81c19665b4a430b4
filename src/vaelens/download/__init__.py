"""Files from elsewhere, checked: `hub` for the Hugging Face hub, `web` for plain addresses."""
