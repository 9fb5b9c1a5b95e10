"""What only the book needs: its numbers, its pictures, its exercises and its recorded studies."""
