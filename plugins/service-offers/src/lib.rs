//! service-offers
