"""ChatService: models."""

from metamorph_client.chat.v1 import chat_service_pb2 as pb
from metamorph_client.chat.v1 import model_pb2

from metamorphd.catalog import Catalog, CatalogModel, Price
from metamorphd.models.caller import Scope
from metamorphd.models.capabilities import Capabilities
from metamorphd.services.convert.generation import EFFORTS, THINKING
from metamorphd.services.convert.time import timestamp


class ChatModels:
    """The model methods of ChatService."""

    _catalog: Catalog
    _default_model: str

    async def ListModels(self, request: pb.ListModelsRequest, scope: Scope) -> pb.ListModelsResponse:
        models = [
            _model_to_proto(model, is_default=model.model == self._default_model) for model in self._catalog.models
        ]
        return pb.ListModelsResponse(models=models)


def _model_to_proto(model: CatalogModel, *, is_default: bool) -> model_pb2.Model:
    return model_pb2.Model(
        model=model.model,
        display_name=model.display_name,
        context_tokens=model.context_tokens,
        max_output_tokens=model.max_output_tokens,
        prices=map(_price_to_proto, model.prices),
        retire_time=timestamp(model.retire_time),
        successor=model.successor,
        is_default=is_default,
        capabilities=_capabilities_to_proto(model.capabilities),
    )


def _capabilities_to_proto(can: Capabilities) -> model_pb2.ModelCapabilities:
    return model_pb2.ModelCapabilities(
        thinking_modes=[mode for mode, name in THINKING.items() if name in can.thinking],
        thinks_by_default=can.thinks_by_default,
        forced_tool_choice=can.forced_tool_choice,
        efforts=[effort for effort, name in EFFORTS.items() if name in can.efforts],
        images=can.images,
        documents=can.documents,
        response_schema=can.response_schema,
        attachments=can.attachments,
        summaries=can.summaries,
        document_pages=can.document_pages,
    )


def _price_to_proto(price: Price) -> model_pb2.ModelPrice:
    return model_pb2.ModelPrice(
        above_input_tokens=price.above_input_tokens,
        input_usd_nanos=price.input_usd_nanos,
        output_usd_nanos=price.output_usd_nanos,
        cache_read_usd_nanos=price.cache_read_usd_nanos,
        cache_write_usd_nanos=price.cache_write_usd_nanos,
    )
