//! Seeded short runs of the fuzz targets.
