"""The Hugging Face Hub: fetches model folders and files into its cache, publishes checked models with their cards."""
