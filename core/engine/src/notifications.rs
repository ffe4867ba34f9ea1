//! Notifications as their user sees them: where one has no text of its own, the present text of its message stands in, so that
//! no text is kept twice.

use std::sync::Arc;

use haggle_model::{ErrorCode, MessageId, UserId};
use haggle_store::NotificationRow;

use crate::{Actor, Engine, Inner, Refusal, Transport};

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotificationView {
    /// Whose.
    pub user: UserId,
    /// As it is kept, but for the body.
    pub row: NotificationRow,
}

/// Fills a body that is empty, as far as the user may still see the message.
pub(crate) async fn fill(engine: &Arc<Inner>, view: &mut NotificationView) -> Result<(), Refusal> {
    let said = &mut view.row.notification;
    if let Some(message) = said.message.filter(|_| said.body.is_empty()) {
        said.body = text(engine, &view.user, message).await?;
    }
    Ok(())
}

async fn text(engine: &Arc<Inner>, user: &UserId, message: MessageId) -> Result<String, Refusal> {
    let reader = Actor::user(user.clone(), Transport::Internal);
    let whole = Engine { inner: engine.clone() };
    match whole.authorize_read(&reader, message.conversation).await {
        Ok(_) if engine.store.is_hidden(user, message).await? => Ok(String::new()),
        Ok(_) => Ok(engine.store.message(message).await?.map(|row| row.content.text).unwrap_or_default()),
        Err(refusal) if matches!(refusal.code, ErrorCode::NotFound | ErrorCode::Forbidden) => Ok(String::new()),
        Err(refusal) => Err(refusal),
    }
}
