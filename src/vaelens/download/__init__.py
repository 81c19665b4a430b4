"""Files from elsewhere, checked: `hub` and `hub_listing` for the Hugging Face hub, `web_files` for other addresses."""
