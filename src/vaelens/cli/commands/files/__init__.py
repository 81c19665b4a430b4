"""Commands about files of VAEs: what they are, and turning one into another."""
