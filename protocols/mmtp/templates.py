"""Profile D, header blocks by templates (specification, 7.2): what others import of it."""

from protocols.mmtp.template_decoder import TemplateDecoder
from protocols.mmtp.template_encoder import TemplateEncoder
from protocols.mmtp.template_state import MAX_STATE, MAX_TEMPLATES, TemplateState, decode_state

__all__ = ["MAX_STATE", "MAX_TEMPLATES", "TemplateDecoder", "TemplateEncoder", "TemplateState", "decode_state"]
