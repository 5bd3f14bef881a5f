"""The Hugging Face Hub: model folders and files fetched into its cache, checked models and their cards published."""
