"""What Fungible's DAGs share: settings, commands, files, schedules and assets."""
