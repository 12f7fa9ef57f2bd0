"""What the course around the method needs: checks, quizzes, grading, figures that move."""
