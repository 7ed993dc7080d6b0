"""What is computed: tensor expressions that the rules know how to schedule."""
