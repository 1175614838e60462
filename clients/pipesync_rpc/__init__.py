"""Code that clients and servers share: channels, errors, identifiers and reasons."""
