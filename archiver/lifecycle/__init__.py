"""What happens to an image between resident and released, and back."""
