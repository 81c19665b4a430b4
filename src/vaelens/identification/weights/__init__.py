"""What a file of weights is by its content, whatever its name says: `workflow.py` goes through the steps."""
