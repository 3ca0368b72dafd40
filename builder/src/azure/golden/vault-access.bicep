// A VM may read one secret of a vault.
// Written by edgepress azure; azuredeploy.json says the same.
targetScope = 'resourceGroup'

@description('The key vault, in this resource group.')
param vaultName string

@description('The secret in it.')
param secretName string

@description('The VM\'s own identity.')
param principalId string

// Its permissions must go by roles (RBAC)
resource vault 'Microsoft.KeyVault/vaults@2023-07-01' existing = {
  name: vaultName
}

// What dps.sh stored
resource secret 'Microsoft.KeyVault/vaults/secrets@2023-07-01' existing = {
  parent: vault
  name: secretName
}

// Key Vault Secrets User
resource role 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  scope: secret
  name: guid(secret.id, principalId, '4633458b-17de-408a-b874-0445c86b69e6')
  properties: {
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', '4633458b-17de-408a-b874-0445c86b69e6')
    principalId: principalId
    principalType: 'ServicePrincipal'
  }
}
