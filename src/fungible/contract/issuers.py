"""Who serves and bills a call, under one name each, whatever a source calls them.

The names are OpenTelemetry's well-known values of `gen_ai.provider.name` where there is one.
"""

_ALIASES = {
    "openai": ("open_ai", "text-completion-openai", "openai.com"),
    "anthropic": ("claude", "anthropic_text"),
    "aws.bedrock": ("bedrock", "bedrock_converse", "amazon.bedrock", "amazon_bedrock", "aws"),
    "aws.sagemaker": ("sagemaker", "sagemaker_chat", "amazon.sagemaker"),
    "azure.ai.openai": ("azure", "azure.openai", "azure_openai", "az.ai.openai", "azure_text"),
    "azure.ai.inference": ("azure_ai", "az.ai.inference", "azure_ai_inference"),
    "gcp.vertex_ai": ("vertex_ai", "vertex", "vertexai", "google_vertex", "google-vertex"),
    "gcp.gemini": ("gemini", "google_ai_studio", "google.gemini"),
    "gcp.gen_ai": ("google", "google_genai", "googleai"),
    "cohere": ("cohere_chat",),
    "deepseek": (),
    "groq": (),
    "ibm.watsonx.ai": ("watsonx", "watsonx_text", "ibm_watsonx"),
    "mistral_ai": ("mistral", "mistralai", "mistral-ai"),
    "perplexity": (),
    "x_ai": ("xai", "x-ai", "grok"),
    "fireworks_ai": ("fireworks",),
    "together_ai": ("together", "togetherai"),
}
_BY_ALIAS = {alias: name for name, aliases in _ALIASES.items() for alias in (name, *aliases)}


def issuer_named(said: str) -> str:
    """The one name of an issuer; one that nobody knows keeps its own, in lower case."""
    name = said.strip().lower()
    return _BY_ALIAS.get(name, name)
