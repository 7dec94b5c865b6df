"""What features cost, whether they are right, and which representation is worth its cost."""
