"""What a destination holds beyond what the lists show, and what Stripe says of it."""
