"""What any part of a long-running process needs: time, threads, supervision, files, logs and facts about itself."""
