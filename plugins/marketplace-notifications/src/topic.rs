//! What there is to tell. The first three are the topics that clients of message centres know; the others are the marketplace's.

/// What a notification is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Topic {
    MessageReceived,
    MessageAdmin,
    ChatCreated,
    OfferReceived,
    OfferAccepted,
    OfferDeclined,
    OfferWithdrawn,
    OfferExpired,
    BookingRequested,
    BookingConfirmed,
    BookingDeclined,
    BookingCancelled,
    BookingExpired,
    BookingRescheduled,
}

impl Topic {
    pub(crate) const ALL: [Topic; 14] = [
        Topic::MessageReceived,
        Topic::MessageAdmin,
        Topic::ChatCreated,
        Topic::OfferReceived,
        Topic::OfferAccepted,
        Topic::OfferDeclined,
        Topic::OfferWithdrawn,
        Topic::OfferExpired,
        Topic::BookingRequested,
        Topic::BookingConfirmed,
        Topic::BookingDeclined,
        Topic::BookingCancelled,
        Topic::BookingExpired,
        Topic::BookingRescheduled,
    ];

    /// The word that clients and preferences use.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Topic::MessageReceived => "MESSAGE_RECEIVED",
            Topic::MessageAdmin => "MESSAGE_ADMIN",
            Topic::ChatCreated => "CHAT_CREATED",
            Topic::OfferReceived => "OFFER_RECEIVED",
            Topic::OfferAccepted => "OFFER_ACCEPTED",
            Topic::OfferDeclined => "OFFER_DECLINED",
            Topic::OfferWithdrawn => "OFFER_WITHDRAWN",
            Topic::OfferExpired => "OFFER_EXPIRED",
            Topic::BookingRequested => "BOOKING_REQUESTED",
            Topic::BookingConfirmed => "BOOKING_CONFIRMED",
            Topic::BookingDeclined => "BOOKING_DECLINED",
            Topic::BookingCancelled => "BOOKING_CANCELLED",
            Topic::BookingExpired => "BOOKING_EXPIRED",
            Topic::BookingRescheduled => "BOOKING_RESCHEDULED",
        }
    }

    /// The setting of its title: `title_message_received`.
    pub(crate) fn setting(self) -> String {
        format!("title_{}", self.as_str().to_lowercase())
    }

    /// The title where nothing is set. `{name}` is who did it.
    pub(crate) fn default_title(self) -> &'static str {
        match self {
            Topic::MessageReceived => "New message from {name}",
            Topic::MessageAdmin => "Message from {name}",
            Topic::ChatCreated => "New conversation: {name}",
            Topic::OfferReceived => "{name} made you an offer",
            Topic::OfferAccepted => "{name} accepted the offer",
            Topic::OfferDeclined => "{name} declined the offer",
            Topic::OfferWithdrawn => "{name} withdrew the offer",
            Topic::OfferExpired => "An offer has expired",
            Topic::BookingRequested => "{name} asks for a booking",
            Topic::BookingConfirmed => "{name} confirmed the booking",
            Topic::BookingDeclined => "{name} declined the booking",
            Topic::BookingCancelled => "{name} cancelled the booking",
            Topic::BookingExpired => "A booking request has expired",
            Topic::BookingRescheduled => "{name} proposes another time",
        }
    }
}
