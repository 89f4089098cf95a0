"""Programs around the package: each makes something that the package ships."""
