//! Images. The bytes go to the node that is asked, which checks and keeps them and then has the image
//! committed; from there it is replicated.

use std::{io, time::Duration};

use axum::{
    body::{Body, BodyDataStream, Bytes},
    extract::{Path, Request},
    http::header,
};
use futures::{Stream, StreamExt, stream};
use scp_model::{
    Command, ImageId,
    command::{CreateImage, DeleteImage},
    image::{IMAGE_BYTES_MAX, Image, Visibility},
};
use scp_state::NameScope;
use tokio::time::timeout;

use crate::{
    server::{
        Code,
        authorize::{Action, Scope},
        body::Params,
        call::{Answer, Call},
        invalid::{Invalid, valid},
        page::{ByProject, Filter},
        view,
    },
    v1::{self, Problem},
};

/// The images that the asker may see: those of their projects, and public ones.
#[utoipa::path(get, path = "/v1/images", tag = "images", params(v1::ListQuery),
    responses(
        (status = 200, body = v1::List<v1::Image>),
        (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn list(call: Call, Params(query): Params<v1::ListQuery>) -> Answer {
    let filter: Filter<ImageId, v1::ImagePhase> = Filter::new(&call, &query, ByProject::Yes)?;
    let keep = |it: &Image| {
        let visible = it.visibility == Visibility::Public
            || call.allowed(Action::ImageRead, Scope::Project(it.project));
        visible
            && filter.keeps(&it.name, Some(it.project))
            && filter.phase.is_none_or(|wanted| wanted == view::image_phase(&call.state, it))
    };
    call.ok(&filter.page_of((&call.state, &call.state.images), keep, |it| view::image(&call.state, it)))
}

/// One image, with how far its replication is.
#[utoipa::path(get, path = "/v1/images/{image}", tag = "images",
    params(("image", description = "id or name"), v1::OneQuery),
    responses(
        (status = 200, body = v1::Image),
        (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn show(
    call: Call,
    Path(image): Path<String>,
    Params(query): Params<v1::OneQuery>,
) -> Answer {
    let image: &Image = call.find(Action::ImageRead, &image, query.project.as_deref())?;
    call.ok(&view::image(&call.state, image))
}

/// Upload an image: the id is made by the client, the body is the file, with its Content-Length. The
/// format is found in the bytes. A repeat with the same id is answered with the image that is there.
#[utoipa::path(put, path = "/v1/images/{image}", tag = "images",
    params(("image", description = "id"), v1::ImageUpload),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses(
        (status = 201, body = v1::Image),
        (status = 200, body = v1::Image, description = "was there already"),
        (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn upload(
    mut call: Call,
    Path(image): Path<String>,
    Params(about): Params<v1::ImageUpload>,
    request: Request,
) -> Answer {
    let command = about_image(&call, &image, &about)?;
    let (id, project) = (command.id, command.project);
    let action = match command.visibility {
        Visibility::Public => Action::ImagePublish,
        Visibility::Private => Action::ImageManage,
    };
    call.may(action, Scope::Project(project))?;
    if let Some(there) = call.state.images.get(&id) {
        let same =
            (&there.name, there.project, there.visibility) == (&command.name, project, command.visibility);
        let taken = || Problem::new(Code::IdTaken, "another image has this id").remedy("Make a new id.");
        return if same { call.ok(&view::image(&call.state, there)) } else { Err(taken()) };
    }
    worth_sending(&call, &command)?;
    let length = content_length(&request)?;
    let place = call.server.shared.uploads.clone().try_acquire_owned();
    let _place = place.map_err(|_| {
        Problem::new(Code::Overloaded, "too many uploads are under way on this node")
            .remedy("Try again in a minute, or ask another node.")
    })?;
    let idle = call.server.shared.options.idle_timeout;
    let body = measured(request.into_body(), length, idle);
    let content = call.cluster().take_image(id, Box::pin(body)).await?;
    let held_by = call.cluster().node();
    call.commit(Command::CreateImage(Box::new(command.create(content, held_by)))).await?;
    call.created(&view::image(&call.state, call.made(call.state.images.get(&id))?))
}

/// What is known of an image before its bytes.
struct About {
    id: ImageId,
    project: scp_model::ProjectId,
    name: scp_model::Name,
    visibility: Visibility,
}

impl About {
    fn create(self, content: scp_model::image::ImageContent, held_by: scp_model::NodeId) -> CreateImage {
        let Self { id, project, name, visibility } = self;
        CreateImage { id, project, name, visibility, content, held_by }
    }
}

fn about_image(call: &Call, id: &str, about: &v1::ImageUpload) -> Result<About, Problem> {
    let mut invalid = Invalid::default();
    let visibility = match about.visibility {
        v1::Visibility::Private => Visibility::Private,
        v1::Visibility::Public => Visibility::Public,
    };
    let project = call.project_for(Action::ImageManage, about.project.as_deref());
    let project = invalid.take("project", project.map_err(|problem| problem.detail));
    let id = invalid.take("id", id.parse::<ImageId>());
    let name = invalid.name("name", &about.name);
    invalid.finish()?;
    Ok(About { id: valid(id), project: valid(project).id, name: valid(name), visibility })
}

/// What would be refused anyway is refused before gigabytes are sent. `apply` has the last word.
fn worth_sending(call: &Call, about: &About) -> Result<(), Problem> {
    let Some(project) = call.state.projects.get(&about.project) else {
        return Err(Problem::not_found("project", &about.project.to_string()));
    };
    if call.state.names.contains_key(&(NameScope::Images(project.id), about.name.clone())) {
        let (kind, name) = ("image".to_owned(), about.name.to_string());
        return Err(scp_model::Rejection::NameTaken { kind, name }.into());
    }
    let (used, limit) = (call.state.usage_of(project.id).images, project.quota.images);
    if used >= limit {
        let resource = scp_model::rejection::QuotaResource::Images;
        return Err(scp_model::Rejection::QuotaExceeded { resource, limit, used, asked: 1 }.into());
    }
    Ok(())
}

fn content_length(request: &Request) -> Result<u64, Problem> {
    let header = request.headers().get(header::CONTENT_LENGTH);
    let length = header.and_then(|value| value.to_str().ok()).and_then(|text| text.parse::<u64>().ok());
    match length {
        None => Err(Problem::new(Code::LengthRequired, "an upload says its Content-Length")
            .remedy("Send the file, not a stream of unknown length.")),
        Some(0) => Err(Problem::new(Code::BadContent, "the file is empty")),
        Some(length) if length > IMAGE_BYTES_MAX => {
            Err(Problem::new(Code::TooLarge, format!("an image has at most {IMAGE_BYTES_MAX} bytes")))
        }
        Some(length) => Ok(length),
    }
}

/// The body as it arrives; an error when it stalls, breaks off, or is not as long as it said.
fn measured(body: Body, length: u64, idle: Duration) -> impl Stream<Item = io::Result<Bytes>> + Send {
    let start = Some((body.into_data_stream(), length));
    stream::unfold(start, move |rest: Option<(BodyDataStream, u64)>| async move {
        let (mut body, left) = rest?;
        let error = match timeout(idle, body.next()).await {
            Err(_) => io::Error::new(io::ErrorKind::TimedOut, "the upload stalled"),
            Ok(None) if left == 0 => return None,
            Ok(None) => io::Error::new(io::ErrorKind::UnexpectedEof, format!("{left} bytes are missing")),
            Ok(Some(Err(error))) => io::Error::other(error),
            Ok(Some(Ok(bytes))) => match left.checked_sub(bytes.len() as u64) {
                Some(left) => return Some((Ok(bytes), Some((body, left)))),
                None => io::Error::new(io::ErrorKind::InvalidData, "more bytes than announced"),
            },
        };
        Some((Err(error), None))
    })
}

/// Delete an image that no VM uses.
#[utoipa::path(delete, path = "/v1/images/{image}", tag = "images",
    params(("image", description = "id or name"), v1::OneQuery),
    responses(
        (status = 204),
        (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn delete(
    mut call: Call,
    Path(image): Path<String>,
    Params(query): Params<v1::OneQuery>,
) -> Answer {
    if let Some(answer) = call.repeated() {
        return answer.and_then(|()| call.no_content());
    }
    let image: &Image = call.find(Action::ImageRead, &image, query.project.as_deref())?;
    let id = image.id;
    let action = match image.visibility {
        Visibility::Public => Action::ImagePublish,
        Visibility::Private => Action::ImageManage,
    };
    call.may(action, Scope::Project(image.project))?;
    call.commit(Command::DeleteImage(DeleteImage { id })).await?;
    call.no_content()
}
