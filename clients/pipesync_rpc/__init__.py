"""What both ends of the wire share: errors, identities, logging, channels and servers."""
