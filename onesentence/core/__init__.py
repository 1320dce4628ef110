"""What every part uses: errors, files, parameters, prompts, text, the machine. It imports no other part."""
