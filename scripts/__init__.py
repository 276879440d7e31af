"""What people type; scripts that share code import it from here."""
