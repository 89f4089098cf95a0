"""What every room stands on: files, lines, pictures, boxes, text."""
