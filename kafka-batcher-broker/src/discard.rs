//! Discard mode (to be made cheap).

use std::io;

use tokio::net::TcpStream;

use crate::connection::Life;

pub(crate) async fn serve(life: &Life, stream: &TcpStream) -> io::Result<()> {
    crate::connection::serve_frames(life, stream).await
}
