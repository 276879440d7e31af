"""What the product is made of: pinned packages with their hashes, models and their licences, and the SBOM."""
